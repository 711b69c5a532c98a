// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

import {TestToken} from "./TestToken.sol";

/// A token that keeps a hundredth of every payment: the payee gets, and the log
/// says, less than was signed.
contract FeeToken is TestToken {
    constructor(string memory name_, string memory version_) TestToken(name_, version_) {}

    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external {
        require(!authorizationState[from][nonce], "FeeToken: authorization is used or canceled");
        _authorize(from, to, value, validAfter, validBefore, nonce, abi.encodePacked(r, s, v));
        authorizationState[from][nonce] = true;
        emit AuthorizationUsed(from, nonce);
        uint256 fee = value / 100;
        _transfer(from, address(this), fee);
        _transfer(from, to, value - fee);
    }
}
